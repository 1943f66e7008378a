"""Fine-tuning of VisualGLM: LoRA, QLoRA, P-tuning v2, or the weights themselves.

The modules in the order in which data passes through them:

    command line            finetune_visualglm, __main__, arguments -> config: TrainingConfig
    data                    rows (formats of files), shapes and row_pictures (formats of a row) -> data: ChatDataset
    encoding                encoding: a turn -> token ids and labels
    batches                 order (which examples a step sees) -> batches (collation, worker processes)
                            pictures (random crops, cache of image embeddings), memory (rehearsal data of the base)
    forward and loss        forward, layers (transformer with a hand-written backward pass) -> loss
    optimizer               optimizer (AdamW, learning rate), deepspeed_optimizer, processes (torch.distributed)
    trainer                 methods (what is trained) -> preparation -> training: the loop
                            evaluation, progress (logs), stopping (signals)
    checkpoints             checkpoints, training_state, runs (contents), resuming, run_lock

Other programs: check (`python -m finetune.data check`), compare, merge, with peft_adapter. They and the evaluation ask
questions by `asking`; `page` writes pages for a browser. `errors` holds the exceptions.
"""

from model.aliases import install_aliases

install_aliases()
