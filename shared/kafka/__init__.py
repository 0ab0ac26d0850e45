"""The Kafka port: a consumer group member and a transactional producer."""
