"""A run that answers requests over HTTP: `jaxlm serve RUN_DIR`.

app        the routes: predictions for records, completions and chats in OpenAI's format
requests   what a client may ask, checked as a config is
streams    texts that are sent while they are written
batches    requests of several clients that are answered together
"""
