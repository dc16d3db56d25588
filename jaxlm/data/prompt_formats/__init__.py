"""How a prompt becomes ids for a model, one file for each way."""
