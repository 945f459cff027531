"""One model, computed once: every distinct image is encoded once and every shared prefix read once, in generation and in
training. Works on token ids and images; knows nothing of messages, turns or protocols.
"""
