print("vrouter")
