"""Fine-tuning: rows of data, batches, the loss, the optimizer, the training loop and its checkpoints."""

from model.aliases import install_aliases

install_aliases()
