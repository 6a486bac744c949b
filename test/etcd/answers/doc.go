// Package answers compares what two systems made of one request.
package answers
