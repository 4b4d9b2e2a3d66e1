"""The page at `/`: a conversation with the served model, and its load as plots.

Everything that it shows comes from this package and this service; nothing is fetched from elsewhere, and the
policy sent with it lets a browser fetch nothing from elsewhere.
"""
