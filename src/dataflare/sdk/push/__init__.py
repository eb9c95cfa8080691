"""What sources share to which others send: a log on disk, and its reader. A connector brings the listener.

It never acknowledges a message that is not on disk. It depends on `sdk.messages` for the bytes of messages.
"""
