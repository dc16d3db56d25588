"""Conversations as text: a chat template, what it writes of each message, and what is trained."""
