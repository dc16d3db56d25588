"""Text <-> ids: sentencepiece, characters, tokenizer.json."""
