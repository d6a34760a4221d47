package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	provisionerName = "bud.studio/test-volumes"
	provisionedBy   = "pv.kubernetes.io/provisioned-by"
	wantedFrom      = "volume.kubernetes.io/storage-provisioner"
	selectedNode    = "volume.kubernetes.io/selected-node"
)

// provisioner answers claims with local volumes: folders below root. They belong to root and mode 0755, as
// a fresh cloud disk does, so a pod that runs as someone else needs an fsGroup to write.
type provisioner struct {
	client kubernetes.Interface
	root   string
}

func newProvisionerCommand() *cobra.Command {
	var kubeconfig, root string
	command := &cobra.Command{
		Use:          "provisioner",
		Short:        "Give every claim of the provisioner " + provisionerName + " a folder of this node",
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			return (&provisioner{client: client, root: root}).run(command.Context())
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the cluster")
	command.Flags().StringVar(&root, "root", "", "the folder that holds the volumes, as the node sees it")
	return command
}

func (p *provisioner) run(ctx context.Context) error {
	// The resync is the retry: a claim whose volume could not be made is looked at again then.
	factory := informers.NewSharedInformerFactory(p.client, 5*time.Second)
	each := func(act func(context.Context, any) error) cache.ResourceEventHandlerFuncs {
		look := func(object any) {
			if err := act(ctx, object); err != nil {
				klog.ErrorS(err, "will be tried again")
			}
		}
		return cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, object any) { look(object) }}
	}
	_, claims := factory.Core().V1().PersistentVolumeClaims().Informer().AddEventHandler(each(p.provide))
	_, volumes := factory.Core().V1().PersistentVolumes().Informer().AddEventHandler(each(p.reclaim))
	if err := errors.Join(claims, volumes); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	return nil
}

func (p *provisioner) provide(ctx context.Context, object any) error {
	claim := object.(*core.PersistentVolumeClaim)
	node := claim.Annotations[selectedNode]
	if claim.Annotations[wantedFrom] != provisionerName || claim.Spec.VolumeName != "" || node == "" {
		return nil
	}
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(p.root, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	_, err := p.client.CoreV1().PersistentVolumes().Create(ctx, &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: provisionerName}},
		Spec: core.PersistentVolumeSpec{
			AccessModes:                   claim.Spec.AccessModes,
			Capacity:                      core.ResourceList{core.ResourceStorage: claim.Spec.Resources.Requests[core.ResourceStorage]},
			PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimDelete,
			PersistentVolumeSource:        core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: path}},
			StorageClassName:              *claim.Spec.StorageClassName,
			ClaimRef: &core.ObjectReference{
				Kind: "PersistentVolumeClaim", APIVersion: "v1",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			NodeAffinity: &core.VolumeNodeAffinity{Required: &core.NodeSelector{
				NodeSelectorTerms: []core.NodeSelectorTerm{{MatchExpressions: []core.NodeSelectorRequirement{{
					Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{node},
				}}}},
			}},
		},
	}, meta.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (p *provisioner) reclaim(ctx context.Context, object any) error {
	volume := object.(*core.PersistentVolume)
	if volume.Annotations[provisionedBy] != provisionerName || volume.DeletionTimestamp != nil ||
		volume.Status.Phase != core.VolumeReleased {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(p.root, volume.Name)); err != nil {
		return err
	}
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, meta.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
