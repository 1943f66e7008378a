"""The synthetic world of visualglm-tiny: generates questions about scenes, trains and evaluates the model.

sentences/, words/         sentence templates as data files; the code that fills them in
questions/                 scene of visualglm.scenes -> question, facts, answer
training/                  question and answer -> token ids -> batches -> training steps; the tokenizer, the network
grading/                   whether an answer is correct
evaluation/                evaluation questions, results, reports

python -m tiny.train       trains a model
python -m tiny.evaluate    asks a model questions about unseen images
python -m tiny.dialogues   writes a model's answers into examples/dialogues
python -m tiny.fewshot     renders images for fine-tuning
python -m tiny.probe       measures how well a model's hidden states separate the backgrounds
"""
