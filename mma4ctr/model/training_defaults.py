"""Default training settings of step 5 for each feature set."""

from typing import Any

# Features plus have few columns, and how well they are used depends on the learning rate. On tiktok-real, with 300,000
# rows, 1e-3 halved every fifth epoch gave test AUC 0.8533, halved every second 0.8520. On wechat_click, with 100,000
# rows, the same rates overfitted to 0.8464 after 20 epochs, halved every second 0.8498. So the rate is halved whenever
# validation AUC does not improve, and that epoch is rejected. Three networks together have fewer than 30,000
# parameters; on wechat_click the mean of several was better than each by 0.0005 to 0.0015.
TRAINING: dict[str, dict[str, Any]] = {
    "paper": {"learning_rate": 1e-3, "halve_every": 5, "max_interrupts": 10, "interrupt": "collapse", "networks": 1},
    "plus": {"learning_rate": 2e-3, "halve_every": 0, "max_interrupts": 6, "interrupt": "no-gain", "networks": 3},
}
