"""The embedded pair: a small mixture-of-experts teacher, a smaller student with another tokenizer."""
