"""Fine-tuning of VisualGLM with LoRA, QLoRA, P-tuning v2, or full fine-tuning.

A training step (`Trainer._step`):

    1. ResumableBatchSampler draws the indices of the step's examples.
    2. Worker processes encode the examples (ChatDataset, TurnEncoder), decode their images, and collate a Batch.
    3. Images are augmented, or their embeddings are taken from the FileEmbeddingCache.
    4. AnswerLoss runs the language model. Training examples have a cross-entropy loss. Rehearsal examples have the KL
       divergence to the base model (the teacher: the same network with its adapter disabled); with full fine-tuning,
       which keeps no base model, they have a cross-entropy loss, too.
    5. The optimizer backpropagates, clips the gradients, and updates the trainable parameters.
    6. The step's numbers (AsyncScalars) are read and logged after the next step has been launched.

The modules, in the order in which data passes through them:

    command line            finetune_visualglm, __main__, arguments -> config: TrainingConfig
    data                    rows (files), formats and row_images (rows of several projects) -> data: ChatDataset
    encoding                encoding: one turn of a row -> token ids and labels
    batches                 sampler (which examples each step sees) -> batches (collation, worker processes)
                            images (augmentation, cache of image embeddings), rehearsal (answers of the base model)
    forward and loss        forward, layers (transformer layers with a hand-written backward pass) -> loss
    optimizer               optimizer (AdamW, learning-rate schedule), deepspeed_optimizer, distributed
    trainer                 methods (the trainable parameters) -> preparation -> trainer: Trainer, the loop
                            evaluation (held-out loss and answers), metrics (of the answers), progress (logs),
                            run_report (the page of a run), stopping (signals)
    checkpoints             checkpoints (files of a run, its lock), training_state, runs (start or resume a run)

Other programs: check (`python -m finetune.data check`), compare, plot (with run_log, run_curves and curves, which also
draw the report), and merge. `errors` holds the exceptions.
"""

from model.aliases import install_aliases

install_aliases()
