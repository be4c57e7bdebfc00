package apiclient

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
)

// CreateTokenReview asks whom a token belongs to. It has no limiter: who asks
// bounds the requests.
func (c *Client) CreateTokenReview(ctx context.Context, review *authenticationv1.TokenReview) (*authenticationv1.TokenReview, error) {
	answer := &authenticationv1.TokenReview{}
	err := c.do(ctx, c.authentication.Post().Resource("tokenreviews").Body(review), answer)
	return answer, err
}

// CreateSubjectAccessReview asks whether somebody may do something. It has no
// limiter, as CreateTokenReview.
func (c *Client) CreateSubjectAccessReview(ctx context.Context, review *authorizationv1.SubjectAccessReview) (*authorizationv1.SubjectAccessReview, error) {
	answer := &authorizationv1.SubjectAccessReview{}
	err := c.do(ctx, c.authorization.Post().Resource("subjectaccessreviews").Body(review), answer)
	return answer, err
}
