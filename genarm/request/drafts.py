"""What speculation is called in a call and on the command line, whose help is not to wait for torch."""

NGRAM, REWARD = "ngram", "reward"  # anything else that drafts is a model
MOST = 7  # drafts, which with the token before them are what an attention kernel takes of a row
