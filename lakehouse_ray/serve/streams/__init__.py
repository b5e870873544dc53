"""The websocket: rows of the lake as the streams of the exchange."""
