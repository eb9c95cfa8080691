"""The message formats as a broker's connector takes them: options, decoders and encoders.

Knows no broker. Depends on `formats.messages` for the bytes; the client of a schema registry is here, because
it needs a network.
"""
