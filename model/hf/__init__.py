"""The Hugging Face side: configuration, network and tokenizer in plain torch and transformers."""
