// argocd-lua: what Argo CD's own code makes of an object with our scripts, without a server.
//
//	argocd-lua health   OBJECT health.lua     {"status": …, "message": …}, as the application controller computes it
//	argocd-lua discover OBJECT discovery.lua  [{"name": …, "disabled": …}], the buttons of the user interface
//	argocd-lua action   OBJECT action.lua     the JSON merge patch that the API server of Argo CD would send
//	argocd-lua diff     LIVE GIT              Synced, or OutOfSync with both sides and exit code 1 (client-side compare)
//
// Objects are YAML or JSON files. Exit code 2 where something cannot be read or run.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/argoproj/gitops-engine/pkg/health"
	jsonpatch "github.com/evanphx/json-patch"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	argodiff "github.com/argoproj/argo-cd/v3/util/argo/diff"
	"github.com/argoproj/argo-cd/v3/util/argo/normalizers"
	"github.com/argoproj/argo-cd/v3/util/lua"
)

const tracking = "argocd.argoproj.io/tracking-id"

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: argocd-lua health|discover|action OBJECT SCRIPT, or argocd-lua diff LIVE GIT")
		os.Exit(2)
	}
	verb, object, second := os.Args[1], readObject(os.Args[2]), os.Args[3]
	switch verb {
	case "health":
		printJSON(healthOf(object, readText(second)))
	case "discover":
		found, err := lua.VM{}.ExecuteResourceActionDiscovery(object, []string{readText(second)})
		check(err)
		printJSON(found)
	case "action":
		fmt.Println(string(patchOf(object, readText(second))))
	case "diff":
		compare(object, readObject(second))
	default:
		check(fmt.Errorf("no such verb: %s", verb))
	}
}

// healthOf asks the function that the application controller asks: a deletion comes first, then the script.
func healthOf(object *unstructured.Unstructured, script string) *health.HealthStatus {
	kind := object.GroupVersionKind()
	overrides := lua.ResourceHealthOverrides{kind.Group + "/" + kind.Kind: v1alpha1.ResourceOverride{HealthLua: script}}
	found, err := health.GetResourceHealth(object, overrides)
	check(err)
	return found
}

// patchOf runs an action without Lua's open libraries, as for scripts from argocd-cm.
func patchOf(object *unstructured.Unstructured, script string) []byte {
	impacted, err := lua.VM{}.ExecuteResourceAction(object, script, nil)
	check(err)
	if len(impacted) != 1 || impacted[0].K8SOperation != lua.PatchOperation {
		check(fmt.Errorf("the action is expected to change the object itself and nothing else"))
	}
	before, err := object.MarshalJSON()
	check(err)
	after, err := impacted[0].UnstructuredObj.MarshalJSON()
	check(err)
	patch, err := jsonpatch.CreateMergePatch(before, after)
	check(err)
	return patch
}

// compare prepares the side of Git as the application controller does: namespace, tracking mark, status ignored.
func compare(live, git *unstructured.Unstructured) {
	if git.GetNamespace() == "" {
		git.SetNamespace(live.GetNamespace())
	}
	if mark := live.GetAnnotations()[tracking]; mark != "" {
		annotations := git.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[tracking] = mark
		git.SetAnnotations(annotations)
	}
	status := v1alpha1.OverrideIgnoreDiff{JSONPointers: []string{"/status"}}
	overrides := map[string]v1alpha1.ResourceOverride{"*/*": {IgnoreDifferences: status}}
	config, err := argodiff.NewDiffConfigBuilder().
		WithDiffSettings(nil, overrides, false, normalizers.IgnoreNormalizerOpts{}).
		WithTracking("app.kubernetes.io/instance", "annotation").
		WithNoCache().
		Build()
	check(err)
	result, err := argodiff.StateDiff(live, git, config)
	check(err)
	if result.Modified {
		fmt.Printf("OutOfSync\nlive: %s\ngit:  %s\n", result.NormalizedLive, result.PredictedLive)
		os.Exit(1)
	}
	fmt.Println("Synced")
}

func readObject(path string) *unstructured.Unstructured {
	text, err := yaml.YAMLToJSON([]byte(readText(path)))
	check(err)
	object := &unstructured.Unstructured{}
	check(object.UnmarshalJSON(text))
	return object
}

func readText(path string) string {
	content, err := os.ReadFile(path)
	check(err)
	return string(content)
}

func printJSON(value any) {
	check(json.NewEncoder(os.Stdout).Encode(value))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "argocd-lua:", err)
		os.Exit(2)
	}
}
