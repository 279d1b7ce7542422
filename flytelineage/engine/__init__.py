"""The running daemon: receivers, deriver, deliveries, supervision."""
