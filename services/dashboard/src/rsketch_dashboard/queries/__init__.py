"""
What the page asks: one module a view, each a function of a connection and parameters that returns plain JSON.

They read the store's views and know nothing of HTTP.
"""
