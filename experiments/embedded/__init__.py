"""How the models in genarm/assets were made and measured."""
