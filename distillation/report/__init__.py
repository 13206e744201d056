"""What people read: the terminal's table, the HTML report, the tokenizer audit's page, the model card."""
