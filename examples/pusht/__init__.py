"""Push-T: a scripted pusher, clumsy data, and three policies."""
