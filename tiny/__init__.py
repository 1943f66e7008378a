"""The world of visualglm-tiny: it draws pictures, asks about them, and trains and evaluates the model.

scenes/                    what is in a picture, and how it is drawn
sentences/, words/         what people say, as data; templates and names filled in
questions/                 scene -> question, what is true of it, answer
training/                  question and answer -> rows of tokens -> batches -> steps; the tokenizer, the network
grading/                   whether an answer is right
evaluation/                questions for a model, its results, reports

python -m tiny.train       trains a model
python -m tiny.evaluate    asks a model questions about unseen pictures
python -m tiny.dialogues   writes a model's answers into examples/dialogues
python -m tiny.fewshot     draws pictures to fine-tune on
python -m tiny.probe       measures how clearly a model holds the background
"""
