"""What `edgekit verify` is made of; also a receipt's and a plan's measurements. The verb is `edgekit/verify.py`."""
