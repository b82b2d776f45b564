// Package cronjob makes Jobs by the clock. schedule.go reads cron expressions, cronjob.go carries out in one loop that wakes
// when the next Job is due. It writes Jobs and the CronJob's status.
package cronjob
