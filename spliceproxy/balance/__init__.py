"""Which upstream next: pure policies. No socket, no clock; randomness is passed in."""
