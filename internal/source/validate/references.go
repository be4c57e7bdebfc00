package validate

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// A static pod runs without an API server, so it cannot depend on an object
// of one. Upstream refuses such pods since 1.37 without a switch
// (PreventStaticPodAPIReferences), and so do we, naming the field.

// referenced is what a volume of each refused kind reads from the API server,
// and what to use instead.
const (
	usePath  = "; put the data on the node and use hostPath"
	useValue = "; write the value into the manifest"
)

func (c *check) refuse(p *field.Path, object, instead string) {
	c.forbidden(p, "static pods may not reference "+object+instead)
}

func (c *check) references(spec *field.Path) {
	if c.spec.ServiceAccountName != "" {
		c.refuse(spec.Child("serviceAccountName"), "a service account", "; remove it")
	}
	for i, secret := range c.spec.ImagePullSecrets {
		if secret.Name != "" {
			c.refuse(spec.Child("imagePullSecrets").Index(i).Child("name"), "a secret", "; use a credential provider or the runtime's registry settings")
		}
	}
	if len(c.spec.ResourceClaims) > 0 {
		c.refuse(spec.Child("resourceClaims"), "resource claims", "; remove them")
	}
	if len(c.spec.EphemeralContainers) > 0 {
		c.forbidden(spec.Child("ephemeralContainers"), "can only be added to a pod that runs, through the API")
	}
	if len(c.spec.SchedulingGates) > 0 {
		c.forbidden(spec.Child("schedulingGates"), "a static pod has its node already; remove them")
	}
	c.eachContainer(spec, func(ctr *v1.Container, p *field.Path) {
		for i, from := range ctr.EnvFrom {
			at := p.Child("envFrom").Index(i)
			switch {
			case from.SecretRef != nil:
				c.refuse(at.Child("secretRef"), "a secret", useValue)
			case from.ConfigMapRef != nil:
				c.refuse(at.Child("configMapRef"), "a config map", useValue)
			default:
				c.required(at, "must name a source")
			}
		}
		for i, env := range ctr.Env {
			if env.ValueFrom == nil {
				continue
			}
			at := p.Child("env").Index(i).Child("valueFrom")
			if env.ValueFrom.SecretKeyRef != nil {
				c.refuse(at.Child("secretKeyRef"), "a secret", useValue)
			}
			if env.ValueFrom.ConfigMapKeyRef != nil {
				c.refuse(at.Child("configMapKeyRef"), "a config map", useValue)
			}
		}
		for i := range ctr.VolumeDevices {
			c.refuse(p.Child("volumeDevices").Index(i), "a persistent volume claim, the only source of block volumes", "; mount the device by hostPath")
		}
		for i := range ctr.Resources.Claims {
			c.refuse(p.Child("resources", "claims").Index(i), "resource claims", "; remove them")
		}
	})
}

// volumeReferences refuses volumes that read an object of the API server. It
// says whether the volume's own rules still matter.
func (c *check) volumeReferences(p *field.Path, v *v1.VolumeSource) bool {
	before := len(c.errs)
	switch {
	case v.ConfigMap != nil:
		c.refuse(p.Child("configMap"), "a config map", usePath)
	case v.Secret != nil:
		c.refuse(p.Child("secret"), "a secret", usePath)
	case v.CSI != nil:
		c.refuse(p.Child("csi"), "a CSI driver", usePath)
	case v.Glusterfs != nil:
		c.refuse(p.Child("glusterfs"), "endpoints", usePath)
	case v.PersistentVolumeClaim != nil:
		c.refuse(p.Child("persistentVolumeClaim"), "a persistent volume claim", usePath)
	case v.Ephemeral != nil:
		c.refuse(p.Child("ephemeral"), "a persistent volume claim", usePath)
	case v.AzureFile != nil:
		c.refuse(p.Child("azureFile"), "a secret", usePath)
	}
	secretIn := func(field string, ref *v1.LocalObjectReference) {
		if ref != nil && ref.Name != "" {
			c.refuse(p.Child(field, "secretRef"), "a secret", usePath)
		}
	}
	if v.CephFS != nil {
		secretIn("cephfs", v.CephFS.SecretRef)
	}
	if v.Cinder != nil {
		secretIn("cinder", v.Cinder.SecretRef)
	}
	if v.FlexVolume != nil {
		secretIn("flexVolume", v.FlexVolume.SecretRef)
	}
	if v.RBD != nil {
		secretIn("rbd", v.RBD.SecretRef)
	}
	if v.ScaleIO != nil {
		secretIn("scaleIO", v.ScaleIO.SecretRef)
	}
	if v.ISCSI != nil {
		secretIn("iscsi", v.ISCSI.SecretRef)
	}
	if v.StorageOS != nil {
		secretIn("storageos", v.StorageOS.SecretRef)
	}
	if v.Projected != nil {
		for i, s := range v.Projected.Sources {
			at := p.Child("projected", "sources").Index(i)
			switch {
			case s.ConfigMap != nil:
				c.refuse(at.Child("configMap"), "a config map", usePath)
			case s.Secret != nil:
				c.refuse(at.Child("secret"), "a secret", usePath)
			case s.ServiceAccountToken != nil:
				c.refuse(at.Child("serviceAccountToken"), "a service account", "; remove it")
			case s.ClusterTrustBundle != nil:
				c.refuse(at.Child("clusterTrustBundle"), "a cluster trust bundle", usePath)
			case s.PodCertificate != nil:
				c.refuse(at.Child("podCertificate"), "a pod certificate", usePath)
			case s.DownwardAPI == nil:
				c.required(at, "must name a source")
			}
		}
	}
	return len(c.errs) == before
}
