"""How close do unlearned models come to retrained ones? Every measure of every model is a row of one frame."""
