package validate

import (
	"net"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (c *check) volumes(p *field.Path) {
	names := map[string]bool{}
	for i := range c.spec.Volumes {
		v, at := &c.spec.Volumes[i], p.Index(i)
		if c.nonEmpty(at.Child("name"), v.Name) {
			c.all(at.Child("name"), v.Name, validation.IsDNS1123Label(v.Name))
			if names[v.Name] {
				c.duplicate(at.Child("name"), v.Name)
			}
			names[v.Name] = true
		}
		switch kinds := set(&v.VolumeSource); {
		case len(kinds) == 0:
			c.required(at, "must name a kind of volume")
		case len(kinds) > 1:
			c.forbidden(at, "may have only one kind, not "+strings.Join(kinds, " and "))
		}
		if c.volumeReferences(at, &v.VolumeSource) {
			c.nodeVolume(&v.VolumeSource, at)
			c.remoteVolume(v.Name, &v.VolumeSource, at)
		}
	}
}

// set names the pointers of a one-of struct that are set, by their JSON names.
func set(oneOf any) (names []string) {
	v := reflect.ValueOf(oneOf).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}

// nodeVolume checks the kinds that need nothing but the node.
func (c *check) nodeVolume(v *v1.VolumeSource, p *field.Path) {
	if e := v.EmptyDir; e != nil {
		if e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
			c.invalid(p.Child("emptyDir", "sizeLimit"), e.SizeLimit.String(), "must not be negative")
		}
		c.mode(p.Child("emptyDir", "mode"), e.Mode, 0o1777)
	}
	if h := v.HostPath; h != nil {
		at := p.Child("hostPath")
		if c.nonEmpty(at.Child("path"), h.Path) {
			c.noBacksteps(at.Child("path"), h.Path)
			if h.Type != nil && *h.Type != v1.HostPathUnset {
				oneOf(c, at.Child("type"), *h.Type, v1.HostPathDirectoryOrCreate, v1.HostPathDirectory, v1.HostPathFileOrCreate, v1.HostPathFile, v1.HostPathSocket, v1.HostPathCharDev, v1.HostPathBlockDev)
			}
		}
	}
	if d := v.DownwardAPI; d != nil {
		at := p.Child("downwardAPI")
		c.mode(at.Child("defaultMode"), d.DefaultMode, 0o777)
		c.user(at.Child("defaultUser"), d.DefaultUser)
		for i := range d.Items {
			c.downwardFile(&d.Items[i], at.Child("items").Index(i))
		}
	}
	if pr := v.Projected; pr != nil {
		at := p.Child("projected")
		c.mode(at.Child("defaultMode"), pr.DefaultMode, 0o777)
		c.user(at.Child("defaultUser"), pr.DefaultUser)
		paths := map[string]bool{}
		for i := range pr.Sources {
			source := at.Child("sources").Index(i)
			if kinds := set(&pr.Sources[i]); len(kinds) > 1 {
				c.forbidden(source, "may have only one kind, not "+strings.Join(kinds, " and "))
			}
			if pr.Sources[i].DownwardAPI == nil {
				continue // refused as a reference
			}
			for j := range pr.Sources[i].DownwardAPI.Items {
				item, at := &pr.Sources[i].DownwardAPI.Items[j], source.Child("downwardAPI", "items").Index(j)
				c.downwardFile(item, at)
				if item.Path != "" && paths[item.Path] {
					c.duplicate(at.Child("path"), item.Path)
				}
				paths[item.Path] = true
			}
		}
	}
	if im := v.Image; im != nil {
		c.nonEmpty(p.Child("image", "reference"), im.Reference)
		oneOf(c, p.Child("image", "pullPolicy"), im.PullPolicy, v1.PullAlways, v1.PullIfNotPresent, v1.PullNever)
	}
}

func (c *check) downwardFile(f *v1.DownwardAPIVolumeFile, p *field.Path) {
	if c.nonEmpty(p.Child("path"), f.Path) {
		c.pathWithin(p.Child("path"), f.Path)
	}
	switch {
	case f.FieldRef != nil && f.ResourceFieldRef != nil:
		c.invalid(p, f.Path, "must have only one of fieldRef and resourceFieldRef")
		fallthrough
	case f.FieldRef != nil:
		c.fieldRef(f.FieldRef, fileFields, p.Child("fieldRef"))
	case f.ResourceFieldRef != nil:
		c.nonEmpty(p.Child("resourceFieldRef", "containerName"), f.ResourceFieldRef.ContainerName)
		c.resourceFieldRef(f.ResourceFieldRef, p.Child("resourceFieldRef"))
	default:
		c.required(p, "must have fieldRef or resourceFieldRef")
	}
	c.mode(p.Child("mode"), f.Mode, 0o777)
	c.user(p.Child("user"), f.User)
}

// remoteVolume checks the kinds that need something outside of the node. Most
// of them are gone from Kubernetes, but the API still accepts them.
func (c *check) remoteVolume(name string, v *v1.VolumeSource, p *field.Path) {
	if g := v.GitRepo; g != nil {
		c.nonEmpty(p.Child("gitRepo", "repository"), g.Repository)
		c.descending(p.Child("gitRepo", "directory"), g.Directory)
	}
	if n := v.NFS; n != nil {
		c.nonEmpty(p.Child("nfs", "server"), n.Server)
		if !path.IsAbs(n.Path) {
			c.invalid(p.Child("nfs", "path"), n.Path, "must be an absolute path")
		}
	}
	if s := v.ISCSI; s != nil {
		c.iscsi(name, s, p.Child("iscsi"))
	}
	if f := v.FC; f != nil {
		at := p.Child("fc")
		if (len(f.TargetWWNs) == 0) == (len(f.WWIDs) == 0) {
			c.invalid(at.Child("targetWWNs"), f.TargetWWNs, "must have exactly one of targetWWNs and wwids")
		}
		if len(f.TargetWWNs) > 0 {
			if f.Lun == nil {
				c.required(at.Child("lun"), "goes with targetWWNs")
			} else {
				c.within(at.Child("lun"), int64(*f.Lun), 0, 255)
			}
		}
	}
	if g := v.GCEPersistentDisk; g != nil {
		c.nonEmpty(p.Child("gcePersistentDisk", "pdName"), g.PDName)
		c.within(p.Child("gcePersistentDisk", "partition"), int64(g.Partition), 0, 255)
	}
	if a := v.AWSElasticBlockStore; a != nil {
		c.nonEmpty(p.Child("awsElasticBlockStore", "volumeID"), a.VolumeID)
		c.within(p.Child("awsElasticBlockStore", "partition"), int64(a.Partition), 0, 255)
	}
	if r := v.RBD; r != nil {
		if len(r.CephMonitors) == 0 {
			c.required(p.Child("rbd", "monitors"), "")
		}
		c.nonEmpty(p.Child("rbd", "image"), r.RBDImage)
	}
	if r := v.CephFS; r != nil && len(r.Monitors) == 0 {
		c.required(p.Child("cephfs", "monitors"), "")
	}
	if s := v.Cinder; s != nil {
		c.nonEmpty(p.Child("cinder", "volumeID"), s.VolumeID)
		if s.SecretRef != nil {
			c.nonEmpty(p.Child("cinder", "secretRef", "name"), s.SecretRef.Name)
		}
	}
	if f := v.Flocker; f != nil {
		if (f.DatasetName == "") == (f.DatasetUUID == "") {
			c.invalid(p.Child("flocker"), f.DatasetName, "must have exactly one of datasetName and datasetUUID")
		}
		if strings.Contains(f.DatasetName, "/") {
			c.invalid(p.Child("flocker", "datasetName"), f.DatasetName, "must not contain '/'")
		}
	}
	if q := v.Quobyte; q != nil {
		c.quobyte(q, p.Child("quobyte"))
	}
	if f := v.FlexVolume; f != nil {
		c.nonEmpty(p.Child("flexVolume", "driver"), f.Driver)
		for k := range f.Options {
			domain, _, _ := strings.Cut(k, "/")
			if domain = "." + strings.ToLower(domain); strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
				c.invalid(p.Child("flexVolume", "options").Key(k), k, "kubernetes.io and k8s.io are reserved")
			}
		}
	}
	if s := v.VsphereVolume; s != nil {
		c.nonEmpty(p.Child("vsphereVolume", "volumePath"), s.VolumePath)
	}
	if s := v.PhotonPersistentDisk; s != nil {
		c.nonEmpty(p.Child("photonPersistentDisk", "pdID"), s.PdID)
	}
	if s := v.PortworxVolume; s != nil {
		c.nonEmpty(p.Child("portworxVolume", "volumeID"), s.VolumeID)
	}
	if s := v.ScaleIO; s != nil {
		c.nonEmpty(p.Child("scaleIO", "gateway"), s.Gateway)
		c.nonEmpty(p.Child("scaleIO", "system"), s.System)
		c.nonEmpty(p.Child("scaleIO", "volumeName"), s.VolumeName)
	}
	if s := v.StorageOS; s != nil {
		if c.nonEmpty(p.Child("storageos", "volumeName"), s.VolumeName) {
			c.all(p.Child("storageos", "volumeName"), s.VolumeName, validation.IsDNS1123Label(s.VolumeName))
		}
		if s.VolumeNamespace != "" {
			c.all(p.Child("storageos", "volumeNamespace"), s.VolumeNamespace, validation.IsDNS1123Label(s.VolumeNamespace))
		}
		if s.SecretRef != nil {
			c.nonEmpty(p.Child("storageos", "secretRef", "name"), s.SecretRef.Name)
		}
	}
	if a := v.AzureDisk; a != nil {
		at := p.Child("azureDisk")
		c.nonEmpty(at.Child("diskName"), a.DiskName)
		c.nonEmpty(at.Child("diskURI"), a.DataDiskURI)
		oneOfPtr(c, at.Child("cachingMode"), a.CachingMode, v1.AzureDataDiskCachingNone, v1.AzureDataDiskCachingReadOnly, v1.AzureDataDiskCachingReadWrite)
		oneOfPtr(c, at.Child("kind"), a.Kind, v1.AzureSharedBlobDisk, v1.AzureDedicatedBlobDisk, v1.AzureManagedDisk)
		if a.Kind != nil {
			prefix := "https://"
			if *a.Kind == v1.AzureManagedDisk {
				prefix = "/subscriptions/"
			}
			if !strings.HasPrefix(a.DataDiskURI, prefix) {
				c.invalid(at.Child("diskURI"), a.DataDiskURI, "must start with "+prefix+" for this kind")
			}
		}
	}
}

// Names of iSCSI nodes (RFC 3720, section 3.2.6), as strict as the API.
var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

func (c *check) iscsi(name string, s *v1.ISCSIVolumeSource, p *field.Path) {
	c.nonEmpty(p.Child("targetPortal"), s.TargetPortal)
	node := func(p *field.Path, value string) {
		if len(value) < 3 || iscsiNames[value[:3]] == nil || !iscsiNames[value[:3]].MatchString(value) {
			c.invalid(p, value, "must be an iSCSI name of the form iqn., eui. or naa.")
		}
	}
	node(p.Child("iqn"), s.IQN)
	if s.InitiatorName != nil {
		node(p.Child("initiatorName"), *s.InitiatorName)
		if len(name)+1+len(s.TargetPortal) > 64 {
			c.invalid(p.Child("targetPortal"), s.TargetPortal, "is too long: with the volume's name and a colon it may have 64 characters where initiatorName is set")
		}
	}
	c.within(p.Child("lun"), int64(s.Lun), 0, 255)
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		c.required(p.Child("secretRef"), "CHAP needs a secret")
	}
}

func (c *check) quobyte(q *v1.QuobyteVolumeSource, p *field.Path) {
	if c.nonEmpty(p.Child("registry"), q.Registry) {
		if len(q.Tenant) > 64 {
			c.errs = append(c.errs, field.TooLong(p.Child("tenant"), q.Tenant, 64))
		} else {
			for _, pair := range strings.Split(q.Registry, ",") {
				if _, _, err := net.SplitHostPort(pair); err != nil {
					c.invalid(p.Child("registry"), q.Registry, "must be host:port pairs, separated by commas")
				}
			}
		}
	}
	c.nonEmpty(p.Child("volume"), q.Volume)
}

func (c *check) mounts(ctr *v1.Container, p *field.Path) {
	privileged := ctr.SecurityContext != nil && ctr.SecurityContext.Privileged != nil && *ctr.SecurityContext.Privileged
	paths := map[string]bool{}
	for i, m := range ctr.VolumeMounts {
		at := p.Index(i)
		volume := slices.IndexFunc(c.spec.Volumes, func(v v1.Volume) bool { return v.Name == m.Name })
		if c.nonEmpty(at.Child("name"), m.Name) && volume < 0 {
			c.errs = append(c.errs, field.NotFound(at.Child("name"), m.Name))
		}
		c.nonEmpty(at.Child("mountPath"), m.MountPath)
		if paths[m.MountPath] {
			c.duplicate(at.Child("mountPath"), m.MountPath)
		}
		paths[m.MountPath] = true
		c.descending(at.Child("subPath"), m.SubPath)
		c.descending(at.Child("subPathExpr"), m.SubPathExpr)
		if m.SubPath != "" && m.SubPathExpr != "" {
			c.invalid(at.Child("subPathExpr"), m.SubPathExpr, "must not be set where subPath is")
		}
		oneOfPtr(c, at.Child("mountPropagation"), m.MountPropagation, v1.MountPropagationBidirectional, v1.MountPropagationHostToContainer, v1.MountPropagationNone)
		if m.MountPropagation != nil && *m.MountPropagation == v1.MountPropagationBidirectional && !privileged {
			c.forbidden(at.Child("mountPropagation"), "Bidirectional needs a privileged container")
		}
		if r := m.RecursiveReadOnly; r != nil && oneOf(c, at.Child("recursiveReadOnly"), *r, v1.RecursiveReadOnlyDisabled, v1.RecursiveReadOnlyIfPossible, v1.RecursiveReadOnlyEnabled) && *r != v1.RecursiveReadOnlyDisabled {
			if !m.ReadOnly {
				c.forbidden(at.Child("recursiveReadOnly"), "needs readOnly: true")
			}
			if m.MountPropagation != nil && *m.MountPropagation != v1.MountPropagationNone {
				c.forbidden(at.Child("recursiveReadOnly"), "goes with mountPropagation None only")
			}
		}
		c.bindOptions(m, volume, at.Child("bindMountOptions"))
	}
}

func (c *check) bindOptions(m v1.VolumeMount, volume int, p *field.Path) {
	seen := map[string]bool{}
	for i, option := range m.BindMountOptions {
		oneOf(c, p.Index(i), option, string(v1.BindMountOptionNoExec), string(v1.BindMountOptionNoDev), string(v1.BindMountOptionNoSUID))
		if seen[option] {
			c.duplicate(p.Index(i), option)
		}
		seen[option] = true
	}
	if len(m.BindMountOptions) > 0 && volume >= 0 && c.spec.Volumes[volume].Image != nil {
		c.invalid(p, m.BindMountOptions, "do not go with image volumes")
	}
}

func (c *check) mode(p *field.Path, mode *int32, highest int32) {
	if mode != nil && (*mode < 0 || *mode > highest) {
		c.invalid(p, *mode, "must be file mode bits (write 0644 in YAML, 420 in JSON)")
	}
}

func (c *check) user(p *field.Path, user *int64) {
	if user != nil {
		c.all(p, *user, validation.IsValidUserID(*user))
	}
}

// noBacksteps keeps a path from leading upwards.
func (c *check) noBacksteps(p *field.Path, value string) {
	if slices.Contains(strings.Split(value, "/"), "..") {
		c.invalid(p, value, "must not contain '..'")
	}
}

// descending asks for a relative path that stays below its start.
func (c *check) descending(p *field.Path, value string) {
	if path.IsAbs(value) {
		c.invalid(p, value, "must be a relative path")
	}
	c.noBacksteps(p, value)
}

// pathWithin asks for a path of a file in a volume that is updated as a whole,
// whose own files start with two dots.
func (c *check) pathWithin(p *field.Path, value string) {
	c.descending(p, value)
	if strings.HasPrefix(value, "..") && !strings.HasPrefix(value, "../") {
		c.invalid(p, value, "must not start with '..'")
	}
}
