"""Tables, figures and words: selections of the results frame, for readers."""
