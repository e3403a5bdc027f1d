"""What two or more of the numbered scripts share. The package never imports a script."""

import mma4ctr.runtime.environment
