"""OTLP, both ways: encoding and sending what this process records, receiving and decoding what others send."""
