"""A workbench for the inside of a network: record and change what its modules compute, while it answers.

points.py       named values of a forward pass, and hooks that read or replace them
knock_out.py    attention between image and text switched off
workbench.py    `Workbench`: answers, records, changes, and the logit lens
"""

from .points import Trace as Trace
from .workbench import InspectedAnswer as InspectedAnswer, Workbench as Workbench
