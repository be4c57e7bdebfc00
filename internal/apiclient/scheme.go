package apiclient

import (
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// codecs is what turns our API types into bytes and back.
type codecs struct {
	negotiated runtime.NegotiatedSerializer
	parameters runtime.ParameterCodec
}

func newCodecs() (codecs, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	for _, add := range []func(*runtime.Scheme) error{
		v1.AddToScheme, coordinationv1.AddToScheme, nodev1.AddToScheme, authenticationv1.AddToScheme, authorizationv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return codecs{}, fmt.Errorf("build API scheme: %w", err)
		}
	}
	return codecs{
		negotiated: serializer.NewCodecFactory(scheme).WithoutConversion(),
		parameters: runtime.NewParameterCodec(scheme),
	}, nil
}
