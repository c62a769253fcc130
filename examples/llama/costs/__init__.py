"""What training costs: bytes from shapes and compiled steps, and time by turns."""
