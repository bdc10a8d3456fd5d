"""puppetmaster: one command on thousands of devices over MQTT."""
