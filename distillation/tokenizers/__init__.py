"""Tokenizers: tokens as bytes, two encodings of one text, spans, chats, and what cannot be spelled."""
