"""MQTT 5: topics as sources, in a session that the broker keeps, and as destinations.

A message is acknowledged after the checkpoint that has it. It depends on `sdk.brokers` and paho-mqtt.
"""
