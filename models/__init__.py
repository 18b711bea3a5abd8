"""What is learned: profiles, signals, calibration."""
