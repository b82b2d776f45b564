package cronjob

// spec.timeZone names zones that a small host may not have; the program carries them (450 KB).
import _ "time/tzdata"
