"""The truth suite: the same cases against bare, our, contrib's and third-party instrumentation, compared and judged."""
