// kstatus: how Flux (wait, healthChecks) and Helm (--wait) judge the objects on standard input.
//
// Reads one object, a List, or a stream of them as JSON; prints {"name", "status", "message"} a line for each.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type verdict struct {
	Name    string `json:"name"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var raw json.RawMessage
		if err := in.Decode(&raw); errors.Is(err, io.EOF) {
			return
		} else {
			check(err)
		}
		// Not json.Unmarshal: it makes every number a float64, and kstatus demands an int64 generation.
		object := &unstructured.Unstructured{}
		check(object.UnmarshalJSON(raw))
		for _, item := range itemsOf(object) {
			result, err := status.Compute(&item)
			check(err)
			check(out.Encode(verdict{item.GetName(), string(result.Status), result.Message}))
		}
	}
}

func itemsOf(object *unstructured.Unstructured) []unstructured.Unstructured {
	if !object.IsList() {
		return []unstructured.Unstructured{*object}
	}
	list, err := object.ToList()
	check(err)
	return list.Items
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "kstatus:", err)
		os.Exit(2)
	}
}
