"""Text with a tokenizer, as rows of token ids."""
