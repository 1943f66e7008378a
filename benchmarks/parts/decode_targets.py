"""Targets of decoding on one H200, and the results of the original program there."""

from benchmarks.parts.prompts import LONG, SHORT
from benchmarks.parts.table import Target, at_least, at_most

# Targets on one H200 at full size in float16, by "stage/row".
TARGETS: dict[str, Target] = {
    "ours/ready": at_most(10),
    f"ours/decode-{SHORT}": at_most(3.2),
    f"ours/decode-{LONG}": at_most(3.6),
    "ours/bandwidth": at_least(0.8),
    f"ours/first-{SHORT}": at_most(8.7),
    f"ours/known-{SHORT}": at_most(5.5),
    f"ours/first-{LONG}": at_most(29),
    "ours/image": at_most(3.2),
    "ours/memory": at_most(15.5),
    "ours/step-2": at_most(3.8),
    "ours/step-8": at_most(3.9),
    "ours/step-16": at_most(4.0),
    "ours/step-32": at_most(4.4),
    "ours/many-64": at_least(13000),
    "ours/many-128": at_least(20000),
    "ours/many-256": at_least(24000),
    "ours/many-32-all": at_least(6300),
    "ours/many-128-all": at_least(14000),
    "ours/many-256-all": at_least(17000),
    "int8/ready": at_most(10),
    f"int8/decode-{SHORT}": at_most(1.95),
    f"int8/first-{SHORT}": at_most(11),
    f"int8/first-{LONG}": at_most(29),
    "int8/step-8": at_most(2.6),
    "int8/step-32": at_most(3.5),
    "int8/step-128": at_most(6.4),
    "int8/memory": at_most(9.5),
    "int4/ready": at_most(10),
    f"int4/decode-{SHORT}": at_most(1.45),
    f"int4/first-{SHORT}": at_most(11),
    f"int4/first-{LONG}": at_most(30),
    "int4/step-8": at_most(2.0),
    "int4/step-32": at_most(2.8),
    "int4/step-128": at_most(6.6),
    "int4/memory": at_most(7.0),
    "int4-vision/memory": at_most(6.0),
    f"hf/decode-{SHORT}": at_most(3.2),
    f"hf/decode-{LONG}": at_most(3.6),
    f"hf/first-{SHORT}": at_most(8.7),
    f"hf/first-{LONG}": at_most(29),
    f"plain/decode-{SHORT}": at_most(11),
}
# Results of the original program on one H200 at full size in float16; SAT's own generation should be close.
ORIGINAL_RESULTS = {
    f"original/decode-{SHORT}": 40.4,
    f"original/decode-{LONG}": 49.5,
    f"original/first-{SHORT}": 75.9,
    f"original/first-{LONG}": 115,
    "original/image": 66.1,
}
