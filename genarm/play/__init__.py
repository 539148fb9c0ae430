"""`genarm play`: a page on which the weights of reward models are chosen by eye. Gradio is an extra: genarm[play]."""
