"""Takes memory until it is not given any more."""
print("it begins", flush=True)
kept = []
while True:
    kept.append(bytearray(b"\1" * (16 << 20)))
