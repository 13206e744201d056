"""Arithmetic over logits that knows no loss and no aligner: chunks, closed form, online softmax."""
