"""What is wrong with a config, found out before anything is loaded; and a dry run of one batch."""
