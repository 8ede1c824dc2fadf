"""What an operator and his programs meet: the admin API, served by the supervisor."""
