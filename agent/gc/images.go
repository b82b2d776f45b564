package gc

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/agent/resources"
	"github.com/reevehq/reeve/internal/logkey"
)

// candidate is an image that no container uses.
type candidate struct {
	id         string
	size       int64
	seen, used time.Time
}

// images deletes unused images: those beyond MaxAge, and when the image file system is fuller than HighPercent, the least
// recently used first until LowPercent.
func (c *Collector) images(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := c.cfg.Runtime.ListImages(ctx, nil)
	if err != nil {
		c.log.Warn("Failed to list images for collection", logkey.Err, err)
		return
	}
	containers, err := c.cfg.Runtime.ListContainers(ctx, nil)
	if err != nil {
		return
	}
	unused := c.unused(list, containers, now)
	for _, x := range unused {
		if c.cfg.MaxAge > 0 && now.Sub(latest(x.used, x.seen)) > c.cfg.MaxAge {
			c.removeImage(ctx, x)
		}
	}
	fs, err := c.imageFS(ctx)
	if err != nil || fs.CapacityBytes == 0 {
		return
	}
	want := toFree(fs, c.cfg.HighPercent, c.cfg.LowPercent)
	if want <= 0 {
		return
	}
	freed := int64(0)
	for _, x := range unused {
		if freed >= want {
			break
		}
		if now.Sub(x.seen) < c.cfg.MinAge {
			continue
		}
		if c.removeImage(ctx, x) {
			freed += x.size
		}
	}
	c.freeDisk(ctx)
	c.log.Info("Collected images", "freedBytes", freed, "wantedBytes", want)
	if freed < want && c.cfg.Event != nil {
		c.cfg.Event(v1.EventTypeWarning, "FreeDiskSpaceFailed", fmt.Sprintf(
			"Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", want, freed))
	}
}

// allUnused removes every image that no container uses.
func (c *Collector) allUnused(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := c.cfg.Runtime.ListImages(ctx, nil)
	if err != nil {
		return
	}
	containers, err := c.cfg.Runtime.ListContainers(ctx, nil)
	if err != nil {
		return
	}
	for _, x := range c.unused(list, containers, now) {
		c.removeImage(ctx, x)
	}
}

// toFree returns how many bytes bring the file system from above high to low percent; 0 below high.
func toFree(fs resources.FS, high, low int) int64 {
	usage := 100 - int(fs.AvailableBytes*100/fs.CapacityBytes)
	if usage < high {
		return 0
	}
	return fs.CapacityBytes*int64(100-low)/100 - fs.AvailableBytes
}

func (c *Collector) imageFS(ctx context.Context) (resources.FS, error) {
	info, err := c.cfg.Runtime.ImageFsInfo(ctx)
	if err != nil {
		return resources.FS{}, err
	}
	for _, f := range info.GetImageFilesystems() {
		if p := f.GetFsId().GetMountpoint(); p != "" {
			return resources.ReadFS(p)
		}
	}
	return resources.ReadFS(c.cfg.RootDir)
}

// wanted are the names of the images that pods here use or are about to: what was just pulled for a container that is
// not made yet is not unused.
func (c *Collector) wanted() map[string]bool {
	out := map[string]bool{}
	if c.cfg.Pods == nil {
		return out
	}
	add := func(image string) {
		named, err := reference.ParseNormalizedNamed(image)
		if err == nil {
			out[reference.TagNameOnly(named).String()] = true
		}
	}
	for _, p := range c.cfg.Pods() {
		if p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed || c.cfg.Ended != nil && c.cfg.Ended(p.UID) {
			continue
		}
		for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for i := range list {
				add(list[i].Image)
			}
		}
		for i := range p.Spec.EphemeralContainers {
			add(p.Spec.EphemeralContainers[i].Image)
		}
		for i := range p.Spec.Volumes {
			if v := p.Spec.Volumes[i].Image; v != nil {
				add(v.Reference)
			}
		}
	}
	return out
}

// unused lists the images without a container, least recently used first; pinned ones are never among them.
func (c *Collector) unused(list []*runtimeapi.Image, containers []*runtimeapi.Container, now time.Time) []candidate {
	inUse := c.wanted()
	for _, x := range containers {
		inUse[x.ImageRef], inUse[x.GetImage().GetImage()], inUse[x.ImageId] = true, true, true
	}
	present := map[string]bool{}
	var out []candidate
	for _, img := range list {
		present[img.Id] = true
		if _, ok := c.seen[img.Id]; !ok {
			c.seen[img.Id] = now
		}
		busy := inUse[img.Id]
		for _, n := range append(img.RepoTags, img.RepoDigests...) {
			busy = busy || inUse[n]
		}
		if busy {
			c.used[img.Id] = now
			continue
		}
		if img.Pinned {
			continue
		}
		out = append(out, candidate{id: img.Id, size: int64(img.Size), seen: c.seen[img.Id], used: c.used[img.Id]})
	}
	for id := range c.seen {
		if !present[id] {
			delete(c.seen, id)
			delete(c.used, id)
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if !out[i].used.Equal(out[j].used) {
			return out[i].used.Before(out[j].used)
		}
		return out[i].seen.Before(out[j].seen)
	})
	return out
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (c *Collector) removeImage(ctx context.Context, x candidate) bool {
	if err := c.cfg.Runtime.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: x.id}); err != nil {
		c.log.Warn("Failed to remove image", logkey.Image, x.id, logkey.Err, err)
		return false
	}
	c.log.Info("Removed unused image", logkey.Image, x.id, "bytes", x.size)
	return true
}
